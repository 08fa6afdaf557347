"""The questions, one file each; `normsmith.studies.question` finds them by walking this folder."""
