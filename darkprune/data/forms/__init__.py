"""The forms that data sets come in: darknet's own, Pascal VOC, COCO, ultralytics, folders of images and labels."""
