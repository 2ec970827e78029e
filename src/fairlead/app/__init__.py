"""The playground: settings side by side in a browser. Plain Python decides, gradio (extra ``[app]``) shows."""
