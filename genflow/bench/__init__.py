"""The benchmark: trains, samples and measures a matrix of processes, solvers, budgets and seeds.

* A **cell** is a result with a key and a folder of its own: one training, one set of samples, or one measurement.
* A **shard** is a part of a large cell of samples, saved as soon as it is drawn.
* A **task** is what a worker does in one go: a cell, or a shard of one. An **assignment** is a task with all that its
  worker has to know.
* A **worker** does one task at a time, in a **slot**, which outlives it. A **job** is what the bench asks for to get
  workers: a process of this machine, or a job of a queueing system.

`cells` plans them and `store` keeps them; `tasks` orders the work, and `runner` hands it to the workers that `start`
starts; `worker` does it. `cost` estimates time and disk beforehand, `tables` shows the numbers.
"""
