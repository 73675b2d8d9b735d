"""Sweeps: grids of runs; what is pending; this process, several processes, Slurm."""
