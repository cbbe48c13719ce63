"""Scripts that are copied to the board: Python 3.6, tensorrt, numpy, cv2 and the standard library only."""
