"""The one place that knows the database: tables, migrations, and a module of functions an aggregate."""
