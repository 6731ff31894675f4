"""What a run is made of: frozen, keyword-only data; each field has its sentence under it, which `bvit config` prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bvit_analysis.config.import_paths import Own, is_import_path, is_own
from bvit_analysis.errors import ConfigError, unknown_name


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the values that a field's type lists, () where it lists none."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(value for option in get_args(hint) for value in choices_of(option))


def takes_own(hint: Any) -> bool:
    """Return whether a field may hold a class or object of the researcher's, or its import path."""
    return Own in get_args(hint)


def _check_choices(config: Any) -> None:
    for name, hint in get_type_hints(type(config)).items():
        value, choices = getattr(config, name), choices_of(hint)
        if not choices or (isinstance(value, str) and value in choices):
            continue
        where = f"{type(config).__name__}.{name}"
        if not takes_own(hint) or (isinstance(value, str) and not is_import_path(value)):
            text = unknown_name(f"value of {where}", value, choices)
            own = "; your own is written package.module:Name" if takes_own(hint) else ""
            raise ConfigError(f"{text}{own}")
        if not isinstance(value, str) and not is_own(value):
            shown = " ".join(repr(value)[:80].split())
            raise ConfigError(
                f"{where} must be one of {', '.join(map(repr, choices))}, a class, a function or an object of a frozen"
                f" dataclass, got {shown}"
            )


def _check_at_least(config: Any, name: str, bound: float) -> None:
    value = getattr(config, name)
    if not value >= bound:
        raise ConfigError(f"{type(config).__name__}.{name} must be at least {bound}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to binarize a ViT and keep it trainable; every practice is a field that can be switched off alone."""

    name: str = "custom"
    "A label for tables and plots."
    weight_scale: Literal["channel", "none"] = "channel"
    "Scale of a binary weight: mean|w| per output channel (XNOR-Net, 1603.05279), or 1."
    centre_weights: bool = False
    "Take the sign of w - mean(w) per output channel, as 2306.16678 does; the effective sign follows."
    activation_gradient: Literal["polynomial", "clip"] = "polynomial"
    "Straight-through slope of an activation's sign: 2 - 2|x| (Bi-Real, 1808.00278), or 1 on |x| <= 1."
    activation_scale: bool = True
    "A learned scale per binary activation tensor, set by calibrate() to E|x| (after BiT, 2205.13016)."
    shortcuts: bool = True
    "A real-valued shortcut around every binary linear (Bi-Real, 1808.00278; 2306.16678)."
    rprelu: bool = True
    "RPReLU after every binary linear (ReActNet, 2003.03488); off keeps the model's own activation."
    attention: Literal["elastic", "boolean"] | Own = "elastic"
    "{0,1} attention: softmax rounded on a learned scale (BiT), the sign of the scores (BiBERT), or a rule of your own."
    distillation: bool = True
    "Learn from the float teacher's logits by KL divergence; off learns from labels."
    latent_weight_decay: float = 0.0
    "Weight decay on latent weights, 1/step in units of lr; decay pulls them to the boundary."
    shift: Literal["none", "static", "token_mean", "bottleneck"] | Own = "none"
    "The activation shift module, our reconstruction of ASM (2305.14730) or your own; see layers/shift.py."
    shift_reduction: int = 16
    "Channels per hidden unit of the 'bottleneck' shift."
    regularization: Literal["none", "resilient", "bin_centre", "double_well"] | Own = "none"
    "The gradient regularization term, our reconstruction of GRS (2305.14730) or your own; see regularization.py."
    regularization_strength: float = 0.3
    "Multiplies the term; its unit depends on the term, see regularization.py."
    regularization_mode: Literal["coupled", "decoupled"] = "coupled"
    "Coupled adds the term to the gradient before Adam; decoupled moves the weight by lr times the term."

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.shift_reduction < 1:
            raise ConfigError(f"shift_reduction must be at least 1, got {self.shift_reduction}")
        for name in ("latent_weight_decay", "regularization_strength"):
            _check_at_least(self, name, 0.0)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are augmented."""

    name: str = "fashion_mnist"
    "'fashion_mnist' (embedded), or a timm data-set name: 'torch/cifar10', 'torch/image_folder', ..."
    root: str = ""
    "Folder of the data set; empty means the embedded data/ folder."
    img_size: int = 28
    "Side of the square image, pixels."
    augmentation: bool = True
    "Random flip and crop_padding (embedded set), or timm's training transform (timm sets)."
    crop_padding: int = 0
    "Pixels by which an image of the embedded set is shifted at random, each way; 0 only flips."
    auto_augment: str = ""
    "timm's auto-augment string, for example 'rand-m9-mstd0.5-inc1'; timm sets only."
    random_erasing: float = 0.0
    "Probability that a patch of the image is erased; timm sets only."
    train_limit: int = 0
    "Use only the first so many training images (of a fixed permutation); 0 means all."
    evaluation_limit: int = 0
    "Evaluate on only the first so many images of a split; 0 means all."
    workers: int = 0
    "Loader processes; timm sets only."

    def __post_init__(self) -> None:
        for name in ("train_limit", "evaluation_limit", "workers", "crop_padding"):
            _check_at_least(self, name, 0)
        _check_at_least(self, "img_size", 1)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which timm ViT, and what to change in it."""

    name: str = "vit_tiny_patch16_224"
    "timm's model name."
    patch_size: int = 0
    "Side of a patch in pixels; 0 keeps timm's."
    embed_dim: int = 0
    "Width; 0 keeps timm's."
    depth: int = 0
    "Blocks; 0 keeps timm's."
    num_heads: int = 0
    "Attention heads; 0 keeps timm's."
    drop_path: float = 0.0
    "Probability of dropping a residual branch."
    pretrained: bool = False
    "Start the teacher from timm's pretrained weights (needs them in timm's cache or a network); images as they expect."
    checkpoint: str = ""
    "A safetensors file of the teacher's weights; with a head for these classes no teacher is trained, nor a hub asked."


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how fast to train."""

    steps: int = 1200
    "Applied optimizer steps."
    batch_size: int = 128
    "Images a step."
    learning_rate: float = 1e-3
    "Peak of the cosine schedule."
    warmup_steps: int = 60
    "Linear warm-up, steps."
    weight_decay: float = 0.05
    "Decay on float matrices; vectors and positions get none, latent weights the recipe's own."
    clip_norm: float = 1.0
    "Global gradient norm is clipped to this; 0 switches clipping off."
    temperature: float = 1.0
    "Of the distillation's softmax."
    label_smoothing: float = 0.1
    "Where labels are learned from."
    evaluate_every: int = 200
    "Steps between evaluations on the validation split."
    checkpoint_every: int = 200
    "Steps between checkpoints."
    calibration_images: int = 256
    "Training images that calibrate() sees before the first step."
    threads: int = 1
    "CPU threads of torch; results depend on it in the last bit."
    device: str = "cpu"
    "torch device."

    def __post_init__(self) -> None:
        positive = (
            "steps",
            "batch_size",
            "evaluate_every",
            "checkpoint_every",
            "threads",
            "calibration_images",
        )
        for name in positive:
            _check_at_least(self, name, 1)
        for name in (
            "warmup_steps",
            "weight_decay",
            "clip_norm",
            "learning_rate",
            "label_smoothing",
        ):
            _check_at_least(self, name, 0)
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What the watch measures and how often; flips are counted on every applied step whatever is set here."""

    flips_every: int = 10
    "Steps between rows of flip measures (each row covers all steps since the last)."
    distribution_every: int = 50
    "Steps between rows of weight bimodality and of histograms."
    activation_every: int = 50
    "Steps between rows of activation and attention information."
    verification_every: int = 500
    "Steps between looks at a forward pass to see whether the tracked signs are those it uses; the first pass always is."
    trajectory_weights: int = 64
    "Weights a site whose trajectory is recorded: a fixed random sample, then an eighth as many at each quarter of the training, those that flipped most so far."
    trajectory_bytes: int = 256 * 2**20
    "Bytes that trajectories may take in the record; a long training of a large model follows fewer weights, at least 8 a site."
    trajectory_every: int = 1
    "Steps between trajectory rows."
    frequency_threshold: float = 0.02
    "A weight oscillates often if it flips in more than this share of steps."
    attention_images: int = 6
    "Test images whose binary and float attention is kept at the end of a training; 0 keeps none."
    seed: int = 0
    "Chooses the sampled weights."

    def __post_init__(self) -> None:
        for name in (
            "flips_every",
            "distribution_every",
            "activation_every",
            "verification_every",
            "trajectory_every",
        ):
            _check_at_least(self, name, 1)
        _check_at_least(self, "trajectory_weights", 0)
        _check_at_least(self, "trajectory_bytes", 0)
        _check_at_least(self, "attention_images", 0)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run in full; two runs with equal configs on one machine give equal bits."""

    recipe: Recipe | None = None
    "None trains the float model."
    seed: int = 0
    "Of everything random."
    scale: str = "custom"
    "Name of the scale preset it came from."
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    teacher: TrainingConfig | None = None
    "How the float teacher is trained; None means none is, so the student starts from given weights or from scratch."
    watch: WatchConfig = field(default_factory=WatchConfig)
