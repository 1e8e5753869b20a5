"""What a Flex template runs, on Dataflow's launcher: `python FILE --parameter=value …`, with a parameter for each flag.

The image calls this file by its job's name (`/template/embed.py`), and that is the job it runs. It submits the job and
ends; nothing of it is waited for.
"""

from pathlib import Path

from beam_pipelines import job

if __name__ == "__main__":
    job.main(Path(__file__).stem)
