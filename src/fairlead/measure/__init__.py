"""What guidance did to the images: features, metrics and their error bars, never without the protocol behind them."""
