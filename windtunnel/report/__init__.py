"""The study as one HTML file: `page.render(data)` and `page.write(data, path)`.

Every figure is two functions: a `*_figure.py` says what to draw (plain data to a `Panel` of marks), `draw.py` says how
any panel is drawn. The page needs no network, no JavaScript library and, but for sorting and searching, no JavaScript.
"""
