"""From files to network-ready arrays and back.

Reading order: `volume` (one file), `datasets` (a folder of cases), `splits` (folds), `plan` (what
the data asks for), `preprocess` (onto the network's grid and back), `augment` and `targets`
(training), `check` (the audit). Nothing is imported here, so that a command that needs one part
pays for one part.
"""
