"""The evidence: what self-play does in the chart world, where every answer and every step has a truth.

settings.py      what is run: sizes, rows, options
contenders.py    signals beside agreement, and controls, each at several learning rates
experiment.py    runs it, by the product's own commands
records.py       what a run came to, put into the small tables of docs/evidence/
step_truth.py    whether step agreement sees step truth; separation.py    how well, and how sure one can be of it
step_signals.py  what else of a step does
prose.py         a second way of talking about charts; checkpoint.py    the second checkpoint, which talks so
results.py tables.py figures.py page.py     from those tables to docs/evidence.md
"""
