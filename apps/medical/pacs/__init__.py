"""Images from a PACS and results back into it, over DICOMweb or the DICOM protocol itself.

    pull: find series -> list instances -> retrieve those that are not on disk yet
    push: list files  -> store each

``config`` says where the PACS is and what is asked of it, ``service`` what both protocols can do,
``web`` and ``dimse`` do it, ``transfer`` keeps files, bounds and retries. The packages that speak
to a PACS (the extra ``pacs``) are imported when one is spoken to.
"""
