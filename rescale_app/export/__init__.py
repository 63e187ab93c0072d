"""Export of networks: ONNX files, and a web page that restores images in the browser."""
