"""The rules under wall-clock time: node processes, the Nexus that serves users, and the chain they settle on.

`network` puts the parts together, `driver` moves events and commands between the kernel and the world, `upstream` speaks to
nodes over a `channel` each, `gateway` to users, `settlement` to the chain, `membership` to nodes that come by themselves;
`storage` says what outlives the process, `sqlite` keeps it, `recovery` goes on from there. No rule of routing, money or
reputation stands here.
"""
