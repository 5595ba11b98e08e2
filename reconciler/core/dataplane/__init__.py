"""The agent's core: from resources of a cut to single writes of kernel maps, and back to answers.

layout, ops            what the maps look like, and what is asked of a datapath
view, values, meaning  what a cut says: incrementally, as it comes, and plainly (the oracle)
prefixes, rulesets     what covers an address; what a rule set says about a peer
mirror, indices        what the maps hold; what an index in them stands for
tables, adopt          stage, flip, settle, roll back; take over and audit
endpoints, cut, agent  the machines, and all of it joined without IO
"""
