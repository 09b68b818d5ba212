"""The words of --cluster, and the heads of the jobs that dask-jobqueue makes of them."""

import pytest

from genflow.bench.queues import SYSTEMS, request
from genflow.bench.start import check_place
from genflow.config import ConfigError
from genflow.registry import UnknownNameError


def script(config):
    """The script that would be submitted."""
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    system, options = request(config)
    options.pop("host", None)
    return getattr(jobqueue, SYSTEMS[system]).job_cls("tcp://1.2.3.4:8786", name="w", **options).job_script()


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            "slurm:queue=gpu,account=me,time=4h,cpus=8,gpus=2,mem=32GB,qos=low,nodelist=n[1-2]",
            [
                "#SBATCH -p gpu", "#SBATCH -A me", "#SBATCH -t 04:00:00", "#SBATCH --cpus-per-task=8",
                "#SBATCH --mem=32G", "#SBATCH --qos=low", "#SBATCH --nodelist=n[1-2]", "#SBATCH --gpus-per-node=2",
                "--nthreads 4", "--nworkers 2", "--resources GPU=1", "--memory-limit 0",
            ],
        ),
        ("slurm", ["#SBATCH -t 24:00:00", "#SBATCH --cpus-per-task=1", "--nthreads 1", "-J genflow"]),
        ("slurm:partition=p,directive=--exclusive,directive=-N 1", ["-p p", "#SBATCH --exclusive", "#SBATCH -N 1"]),
        ("slurm:prologue=module load cuda", ["\nmodule load cuda\n"]),
        (
            "pbs:queue=q,time=90m,cpus=4,gpus=1,mem=16",
            ["#PBS -q q", "--resources GPU=1", "-l walltime=01:30:00", "-l select=1:ncpus=4:mem=16gb:ngpus=1"],
        ),
        ("pbs:cpus=4,mem=16", ["#PBS -l select=1:ncpus=4:mem=16GB", "--nthreads 4"]),
        ("lsf:queue=q,time=1h30m,gpus=1,mem=8", ["#BSUB -q q", "#BSUB -W 01:30", "#BSUB -gpu num=1"]),
        ("sge:queue=q,time=2d,gpus=1", ["#$ -q q", "#$ -l h_rt=48:00:00", "#$ -l gpu=1"]),
        ("htcondor:gpus=1,cpus=2,disk=3GB", ["request_gpus = 1", "RequestCpus = MY.DaskWorkerCores"]),
    ],
)  # fmt: skip
def test_words_become_the_head_of_a_job(tiny, words, lines):
    text = script(tiny(cluster=words))
    for line in lines:
        assert line in text, text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("slurm:queue", "cluster: 'queue' is not of the form KEY=VALUE"),
        ("slurm:queue=", "'queue=' is not of the form"),
        ("slurm:gpus=two", "'gpus=two' is not allowed; give a whole number of at least 0"),
        ("slurm:cpus=0", "'cpus=0' is not allowed"),
        ("slurm:mem=much", "'mem=much' is not allowed; give a number of gigabytes"),
        ("slurm:mem=nan", "'mem=nan' is not allowed"),
        ("slurm:time=4", "cluster: time = '4' is not a time"),
        ("slurm:queue=a,queue=b", "queue is given twice: a, b"),
        ("slurm:queue=a,partition=b", "queue is given twice: a, b"),
        ("moon:queue=a", "unknown system of cluster 'moon'"),
        ("slurm:partiton=a", "unknown key of cluster slurm 'partiton'; did you mean 'partition'"),
        ("pbs:qos=a", "unknown key of cluster pbs 'qos'"),
    ],
)
def test_words_that_are_refused(tiny, words, said):
    with pytest.raises((ConfigError, UnknownNameError)) as caught:
        check_place(tiny(cluster=words))
    assert said in str(caught.value)


def test_every_system_takes_what_all_take(tiny):
    for system in SYSTEMS:
        assert request(tiny(cluster=f"{system}:cpus=2,mem=8,time=1h"))[1]["cores"] == 2


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("partition=gpu,time=4h,gpus=1,cpus=8,mem=32GB", "slurm:queue=gpu,time=4h,gpus=1,cpus=8,mem=32GB"),
        ("account=a,nodelist=n1,reservation=r,comment=c", "slurm:account=a,nodelist=n1,reservation=r,comment=c"),
        ("cluster=slurm,qos=low", "slurm:qos=low"),
        ("local", "local"),
        ("cluster=local,time=1h", "local:time=1h"),
    ],
)
def test_the_former_spelling_means_what_it_meant(tiny, caplog, former, now):
    assert request(tiny(slurm=former)) == request(tiny(cluster=now))
    assert "--slurm is the former spelling of --cluster" in caplog.text


def test_two_kinds_of_workers_and_torchrun_are_refused(tiny, monkeypatch):
    with pytest.raises(ConfigError, match="--scheduler and --cluster exclude each other"):
        check_place(tiny(scheduler="tcp://a:1", cluster="slurm"))
    check_place(tiny())
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_place(tiny())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="start it once, with --jobs on one machine and --scheduler or --cluster on several"
    ):
        check_place(tiny())
