# Slicer sets up the extension's archive here; the tests install to a folder instead.
