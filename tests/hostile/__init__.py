"""Hostile inputs, seeded: what the web, broken tools and ill will put where an image, a text or a file should be.

`images` and `texts` make what a pair consists of, `pairs` puts such pairs into sound containers (then every one of them
must be accounted for), `containers` damages the containers themselves (then nothing may crash, hang or escape), and
`check` runs `ingest` on either and looks at what it left. `python -m benchmarks.hostile` runs ten thousand of them.
"""
