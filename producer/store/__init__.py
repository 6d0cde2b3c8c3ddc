"""The one place that knows the database: tables, migrations and every query, behind `JobStore`."""
