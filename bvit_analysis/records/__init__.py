"""The record of a run, where all that makes numbers and all that looks at them meet."""

from bvit_analysis.files import RunWarning as RunWarning
from bvit_analysis.files import write_json_atomic as write_json_atomic
from bvit_analysis.records.attention import AttentionExamples as AttentionExamples
from bvit_analysis.records.columns import FLIP_BACK_STEPS as FLIP_BACK_STEPS
from bvit_analysis.records.columns import MEASURES as MEASURES
from bvit_analysis.records.columns import SITE_METRICS as SITE_METRICS
from bvit_analysis.records.format import SCHEMA_VERSION as SCHEMA_VERSION
from bvit_analysis.records.format import SCHEMAS as SCHEMAS
from bvit_analysis.records.format import check_name as check_name
from bvit_analysis.records.measure import Measure as Measure
from bvit_analysis.records.places import find_runs as find_runs
from bvit_analysis.records.reader import Run as Run
from bvit_analysis.records.reader import load_run as load_run
from bvit_analysis.records.writer import RunWriter as RunWriter
