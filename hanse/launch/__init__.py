"""Runs as chains of Slurm jobs that fit a machine's time cap. Torch-free.

options.py   what the command line takes
jobs.py      from that to the jobs of a chain
submit.py    the verb: show, or write the scripts and submit the chain
script.py    the text of a job
sites.toml   what each machine's Slurm wants, beside the facts in hanse/plan/machines.toml
chain.py     the record of a chain, and whether to go on
status.py    how a chain stands
slurm.py     sbatch and squeue
job.py       begin and end of a job, run by its script
rank.py      one process of a job, started by srun
"""
