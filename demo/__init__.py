"""The demo: a page on which a video is dropped and played back with where people look in it.

`python -m demo` serves it. `first` is the page until Gradio has started, `app` is the page, `actions` what its buttons
and its API do, `work` what happens to a video, `downloads` what is made of it, `jobs` the files that are kept,
`waiting` the queue, `limits` what is taken, `offline` and `policy` what makes the page safe on a network.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before Gradio is imported
