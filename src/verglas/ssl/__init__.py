"""Learning algorithms: each turns a labelled and an unlabelled batch into a loss."""
