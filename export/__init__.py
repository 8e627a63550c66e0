"""Publishes ALBERT encoders and preprocessors as TF2 SavedModels: the commands, and the packages behind them."""

__version__ = '0.1.0'
