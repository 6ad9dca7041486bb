"""The paper's experiments: one runner, experiments as data.

    python -m bench.paper --size cpu --only mlp_depth        measure, into bench/results/paper
    python -m bench.paper.report                             pictures, and docs/paper.md

| file | what it holds |
|---|---|
| `experiments.py` | every experiment: which networks, on what data, merged in which ways |
| `sizes.py` | smoke, cpu, full: how much of the data, how many alphas, which networks stand in |
| `images.py` | image sets and parts of them; `imagenet.py`: a folder of the user's |
| `endpoints.py` | the pairs, trained or found; kept by the hash of how they came about |
| `ways.py` | the ways to merge: the paper's, and ours |
| `measure.py` | what is measured of a pair; `baselines.py`: of networks beside it |
| `run.py`, `__main__.py` | all points in order, within a time, going on where a run was cut off |
| `published.py`, `figures.py`, `report.py` | the paper's figures, the pictures, the document |
| `pieces.py` | endpoints as float16 in small files |

Source: REPAIR (Jordan et al., 2023).
"""
