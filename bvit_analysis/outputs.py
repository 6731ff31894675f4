"""What an executed notebook stores for the report: names of variables, a mime type, a key."""

FIGURES_VARIABLE = "BVIT_FIGURES"
"Environment variable: folder in which each figure that a notebook shows is saved; unset saves none."

STEM_KEY = "bvit_figure"
"Key in the metadata of an output that tells its files: a stem, or a list of stems."

FRAMES_MIME = "application/vnd.bvit.frames+json"
"Pictures of an explorer for many settings, in the output of an executed notebook; the report makes them operable."

FRAMES_VARIABLE = "BVIT_FRAMES"
"Environment variable: how many settings of an explorer an executed notebook stores; unset or 0 stores none."
