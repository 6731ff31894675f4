// What the tests ask a page of JupyterLab: its notebook, the pictures of an explorer, and when they were drawn.
window.bvitLab = (() => {
  const quiet = 120; // ms without a new picture after which the kernel, idle again, has sent the last one
  const heard = []; // what the kernel complained of while it followed a control; JupyterLab only logs that
  let seen = null;
  let listening = null;

  const panel = () => {
    const shown = window.jupyterapp?.shell.currentWidget;
    return shown?.sessionContext && shown.content?.model ? shown : null;
  };
  const idle = () => panel().sessionContext.session?.kernel?.status === 'idle';
  const models = () => Array.from(panel().content.model.cells);
  const outputs = cell => Array.from({ length: cell.outputs.length }, (_, i) => cell.outputs.get(i).toJSON());
  const text = part => (Array.isArray(part) ? part.join('') : String(part ?? ''));
  const pictures = cell => [...cell.querySelectorAll('img.bvit-panel')];

  const cells = () =>
    models()
      .map((cell, index) => ({ cell, index }))
      .filter(({ cell }) => cell.type === 'code')
      .map(({ cell, index }) => ({
        index,
        source: cell.sharedModel.getSource(),
        count: cell.executionCount,
        outputs: outputs(cell).map(output => ({
          type: output.output_type,
          name: output.name ?? output.ename ?? '',
          text: text(output.text ?? output.evalue).slice(0, 2000),
          kinds: Object.keys(output.data ?? {}),
        })),
      }));

  // JupyterLab asks a new kernel for its widgets before the kernel knows any; the kernel logs that.
  const harmless = /^No such comm\b/;

  const listen = () => {
    if (listening === panel().sessionContext) return;
    listening = panel().sessionContext;
    listening.iopubMessage.connect((_, message) => {
      const { header, content } = message;
      if (header.msg_type === 'error') heard.push(`${content.ename}: ${content.evalue}`);
      if (header.msg_type === 'stream' && content.name === 'stderr' && !harmless.test(content.text)) heard.push(content.text);
    });
  };

  return {
    panel,
    cells,
    ready() {
      if (!panel()?.sessionContext.isReady || !panel().content.model.cells.length || !idle()) return false;
      listen();
      return true;
    },
    done() {
      const code = models().filter(cell => cell.type === 'code');
      const failed = code.some(cell => outputs(cell).some(output => output.output_type === 'error'));
      const executed = code.every(
        cell => cell.executionCount !== null || !cell.sharedModel.getSource().trim()
      );
      return idle() && (failed || executed);
    },
    troubles() {
      const found = heard.map(text => `the kernel says: ${text.slice(0, 2000)}`);
      for (const { index, count, outputs } of cells()) {
        if (count === null) found.push(`cell ${index} was not executed`);
        for (const output of outputs) {
          if (output.type === 'error' || output.name === 'stderr') {
            found.push(`cell ${index}: ${output.name}: ${output.text}`);
          }
        }
      }
      const page = panel().node;
      // What widgets wrote into an Output widget, or could not draw, is in no cell's outputs.
      for (const node of page.querySelectorAll(
        '[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type="application/vnd.jupyter.error"], .jupyter-widgets-error-widget'
      )) {
        found.push(`shown: ${node.textContent.slice(0, 2000)}`);
      }
      for (const node of page.querySelectorAll('.jp-OutputArea-output')) {
        if (/^(Error displaying widget|Loading widget\.\.\.|Failed to load model class)/.test(node.textContent.trim())) {
          found.push(`shown: ${node.textContent.slice(0, 200)}`);
        }
      }
      for (const image of page.querySelectorAll('.jp-OutputArea-output img')) {
        const shown = image.offsetParent !== null; // an answer not yet revealed is no fault
        if (shown && image.complete && image.naturalWidth === 0) found.push(`an image is not drawn: ${image.className}`);
      }
      return found;
    },
    controls(cell) {
      const found = [];
      for (const node of cell.querySelectorAll('[class*="bvit-"]')) {
        const name = [...node.classList].find(one => /^bvit-(?!panel|finding)/.test(one))?.slice(5);
        const has = one => node.classList.contains(one);
        if (!name || has('widget-box')) continue;
        const kind = node.querySelector('.noUi-target')
          ? 'slider'
          : has('widget-dropdown')
            ? 'dropdown'
            : has('widget-select') || has('widget-select-multiple')
              ? 'list'
              : 'other';
        found.push({ name, kind });
      }
      return found;
    },
    async digests(cell) {
      const digest = async image => {
        const bytes = await (await fetch(image.src)).arrayBuffer();
        const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
        return Array.from(hash, byte => byte.toString(16).padStart(2, '0')).join('');
      };
      return Promise.all(pictures(cell).map(digest));
    },
    watch(cell) {
      seen?.stop();
      const state = { start: null, armed: performance.now(), drawn: [], pending: 0 };
      const begin = () => (state.start ??= performance.now());
      const events = ['keydown', 'pointerdown', 'input', 'change'];
      events.forEach(name => cell.addEventListener(name, begin, true));
      const observer = new MutationObserver(changes => {
        for (const { target } of changes) {
          state.pending += 1;
          // Decoded, and past the frame in which it is painted.
          const shown = () =>
            requestAnimationFrame(() => {
              state.pending -= 1;
              state.drawn.push(performance.now());
            });
          target.decode().then(shown, shown);
        }
      });
      pictures(cell).forEach(image => observer.observe(image, { attributeFilter: ['src'] }));
      state.stop = () => {
        observer.disconnect();
        events.forEach(name => cell.removeEventListener(name, begin, true));
      };
      seen = state;
    },
    settled(patience) {
      if (seen.pending || !idle()) return false;
      const now = performance.now();
      if (!seen.drawn.length) return now - (seen.start ?? seen.armed) > patience;
      return now - seen.drawn.at(-1) > quiet;
    },
    times: () => [seen.drawn[0] - seen.start, seen.drawn.at(-1) - seen.start],
  };
})();
