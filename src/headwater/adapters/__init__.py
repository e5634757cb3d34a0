"""Adapters between Headwater and other protocols: one module and one extra for each.

``headwater.adapters.mcp`` has an event store for MCP servers.
"""
