"""The demo: a page on which a video is dropped and played back with where people look in it.

`python -m demo` serves it. `app` is the page, `work` what happens to a video, `jobs` the files it makes, `limits` what
is taken, `offline` what makes the page safe on a network.
"""
