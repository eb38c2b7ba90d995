"""The data report: what became of every image and pair, and what each limit decides, as one page.

May import kontext.store, kontext.data.images, kontext.data.gallery and schemas.
"""
