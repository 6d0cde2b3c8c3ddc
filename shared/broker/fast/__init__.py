"""The fast ways below aio-pika, on names that it, aiormq and pamqp do not document.

The libraries are pinned because of them. `RETRIEVER_AMQP_PLAIN=true` takes none of them, and leaves both
libraries as they were installed, so that a security release of either can be taken the same day. Each has a
plain twin that passes the same tests:

- `batched_channel` publishes; its twin is `outgoing.StockChannel`.
- `frame_interceptor` brings deliveries; its twin is aio-pika's own consumer callback, in `subscriber`.
- `frames` writes and reads frames; its twins are pamqp and aiormq's `FrameReceiver`.
- `patches` stops a leak of closed channels; its twin is the leak.
"""
