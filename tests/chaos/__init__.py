"""The kill matrix: kill -9 of every part at every boundary of a run, judged by what the cloud says.

A point is a victim, an operation and a boundary. The run is brought there and held, the victim is killed and started again,
the run is let go, and what became of it is compared with what was written down before (`points.py`).

* `points.py`     the matrix as data: what is killed, where, and what has to come of it
* `seams.py`      gates in our own processes, so that a kill falls exactly between two calls; `part.py`, `up.py` start them
* `lane.py`       one running service, its cloud and its provider; kills, and what the store says
* `walk.py`       one run as its people see it: ask, approve, ask again where nobody answered
* `batch.py`      points of one victim together: bring them there, kill once, let go, judge
* `judge.py`      what came of a point, from the cloud's own record
* `matrix.py`     all of it, on several lanes; `report.py` tells it; `__main__.py` is `make chaos`
* `releases.py`   the matrix of releases as data; `releasing.py` tries it on a control plane, `release_judge.py` and `release_report.py`
  tell what came of it
* `mutations.py`  one mechanism switched off, to see that the matrix notices
* `naive.py`      the same points for raw Terraform and a loop that tries again
"""
