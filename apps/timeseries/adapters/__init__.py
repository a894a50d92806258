"""Our models inside other libraries; each needs its extra."""
