"""Compression inside other people's trainers: mmengine, Lightning, Hugging Face; each module needs its trainer."""
