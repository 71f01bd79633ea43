//! Benchmarks of the whole system, and the loops that they are compared with. Their results are in `results/`.
