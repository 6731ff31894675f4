"""The lab's modules are imported by its tests as the lab imports them, and by nobody else."""

collect_ignore = ["foreign_lab"]
