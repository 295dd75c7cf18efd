"""Why a network is worth what it is: the measurements of the paper, on any timm model, by hooks and never on copies."""
