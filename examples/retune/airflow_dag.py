"""Every night at three: is the served policy still true for the model? A failed task: kept (1) or bad input (2)."""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

COMMAND = "cd /srv/charts && autoprune retune spec.yaml --once"

with DAG(
    dag_id="autoprune_retune",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # only what the model is now matters
    max_active_runs=1,
):
    BashOperator(task_id="retune", bash_command=COMMAND, execution_timeout=timedelta(hours=6))
