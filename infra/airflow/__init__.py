"""Rounds as Airflow DAGs: what is made here when a round is deployed, and what Airflow then runs (`dags/`)."""
