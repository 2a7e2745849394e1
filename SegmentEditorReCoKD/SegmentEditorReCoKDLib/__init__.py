"""The effect ReCoKD of Slicer's Segment Editor."""
