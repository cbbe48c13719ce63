"""Figures of detections against labels: matching, average precision, COCO's figures."""
