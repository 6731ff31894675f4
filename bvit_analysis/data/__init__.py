"""Data sets and their batches: the embedded Fashion-MNIST, and everything timm reads."""

from bvit_analysis.data.batches import Batch as Batch
from bvit_analysis.data.batches import check_batch_size as check_batch_size
from bvit_analysis.data.batches import evaluation_batches as evaluation_batches
from bvit_analysis.data.batches import train_batches as train_batches
from bvit_analysis.data.dataset import SPLITS as SPLITS
from bvit_analysis.data.dataset import Dataset as Dataset
from bvit_analysis.data.load import load_dataset as load_dataset
from bvit_analysis.data.load import recorded_preprocessing as recorded_preprocessing
from bvit_analysis.data.splits import FileSplit as FileSplit
from bvit_analysis.data.splits import MemorySplit as MemorySplit
from bvit_analysis.data.splits import Split as Split
from bvit_analysis.data.timm_sets import TIMM_NAMES as TIMM_NAMES
