"""The page of a study, and a small copy of the study to keep.

* `charts`: Vega-Lite charts
* `figures`: the values behind each chart
* `sections`: the answer, and the sections of the page
* `page`: `write_report`: report.html and report.md
* `copy`: a copy of a study without weights and texts
"""
