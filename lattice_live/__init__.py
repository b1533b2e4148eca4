"""The rules under wall-clock time: node processes, the Nexus that serves users, and the chain they settle on.

`network` puts the parts together, `driver` moves events and commands between the kernel and the world, `upstream` speaks to
nodes, `gateway` to users, `settlement` to the chain; `folder` holds what outlives them. No rule of routing, money or reputation
stands here.
"""
