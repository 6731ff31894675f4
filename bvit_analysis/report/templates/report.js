"use strict";
// Theme: that of the system, until the reader chooses; kept for the next page where the browser allows it.
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const kept = () => { try { return localStorage.getItem("bvit-theme"); } catch { return null; } };
const keep = theme => { try { localStorage.setItem("bvit-theme", theme); } catch { /* not allowed here */ } };
const wear = theme => { if (theme === "dark" || theme === "light") root.dataset.theme = theme; };
wear(kept());

document.addEventListener("DOMContentLoaded", () => {
  const button = document.querySelector("button.theme");
  const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const name = () => { button.textContent = now() === "dark" ? "Light colours" : "Dark colours"; };
  button.addEventListener("click", () => { wear(now() === "dark" ? "light" : "dark"); keep(now()); name(); });
  dark.addEventListener("change", name);
  name();
  button.hidden = false;
  document.querySelectorAll("figure.explorer").forEach(operate);
});

// An explorer: its controls count through the settings, the last one fastest; each panel shows one picture a setting.
function operate(explorer) {
  const bar = explorer.querySelector(".controls");
  if (!bar) return;
  const controls = [...bar.querySelectorAll("select, input")];
  const finding = explorer.querySelector(".finding");
  const findings = JSON.parse(finding.dataset.findings);
  const panels = [...explorer.querySelectorAll(".panel")].map(panel => ({
    images: [...panel.querySelectorAll("img")],
    frames: panel.dataset.frames.split(" ").map(Number),
  }));
  const show = () => {
    let at = 0;
    for (const control of controls) {
      const list = control.tagName === "SELECT";
      at = at * (list ? control.options.length : Number(control.max) + 1)
        + (list ? control.selectedIndex : Number(control.value));
      if (!list) {
        const text = JSON.parse(control.dataset.texts)[Number(control.value)];
        control.setAttribute("aria-valuetext", text);
        control.parentElement.querySelector("output").textContent = text;
      }
    }
    for (const { images, frames } of panels)
      images.forEach((image, number) => { image.hidden = number !== frames[at]; });
    if (finding.textContent !== findings[at]) finding.textContent = findings[at];
  };
  bar.addEventListener("input", show);
  bar.hidden = false;
  show();
}
