"""Adapters between Headwater and other protocols: one module and one extra for each.

``ai_sdk`` and ``ag_ui`` show runs in clients of these protocols. ``mcp`` has an event store for MCP
servers.
"""
