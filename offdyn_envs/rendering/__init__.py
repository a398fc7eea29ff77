"""Pictures of environments: source and target side by side, as PNG, GIF or MP4; and the gallery.

Needs the extra `render` and, on a machine without a screen, the system's EGL library. Nothing here is
imported by `import offdyn_envs`.
"""
