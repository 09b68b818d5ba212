"""What papers claim, and what holds: recipes of their tables and figures, and robustness studies. No torch here.

* `papers/`: published numbers, and the recipes of `genflow reproduce`, a module for each paper.
* `studies/`: the studies of `genflow study`.
* `claim`, `judge`: a claim, its verdict, and the usual ways to judge one; `results`: the numbers that are judged.
* `recipe`, `parts`: what a recipe is, and the benches it runs; `run`, `write`: both kinds of work, and their folders.
"""
