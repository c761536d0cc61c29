"""The code of a launch whose platform fetches it: what the agent hands over, and what is done there.

| module | where | what |
| --- | --- | --- |
| `source.py` | both | the words in which it is told what to fetch |
| `hand_over.py` | agent | finds that out, without fetching the code |
| `fetch.py` | platform | brings the code into its folder |
| `tools.py` | platform | lays out what installs its requirements, and what the job is run through |
| `install_there.py` | platform | installs them, in the image of the job |
"""
