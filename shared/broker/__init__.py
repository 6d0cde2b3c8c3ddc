"""Everything that speaks AMQP. aio_pika and aiormq are imported nowhere else."""
