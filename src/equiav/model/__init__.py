"""The model: encoders, predictor, heads, and the doors to other people's weights."""
