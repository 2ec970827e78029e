"""The lessons' claims, measured: one module a study, one command each; see docs/results/studies.md.

python -m benchmarks.studies dropout --out runs/studies
"""
