"""What saliency is for: each module makes something that people want out of a track, without the network."""
