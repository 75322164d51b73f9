"""The addresses of the chat, under `/chat/`."""

from __future__ import annotations

from django.urls import path

from agents.chat import views

urlpatterns = [
    path("", views.create, name="chat-create"),
    path("list/", views.conversations, name="chat-list"),
    path("<uuid:conversation_id>/", views.chat, name="chat"),
    path("<uuid:conversation_id>/transcript/", views.messages, name="chat-transcript"),
    path("<uuid:conversation_id>/send/", views.send, name="chat-send"),
    path("<uuid:conversation_id>/stop/", views.stop, name="chat-stop"),
    path("<uuid:conversation_id>/rename/", views.rename, name="chat-rename"),
    path("<uuid:conversation_id>/delete/", views.delete, name="chat-delete"),
    path("<uuid:conversation_id>/text/<uuid:message_id>/", views.text, name="chat-text"),
    path("<uuid:conversation_id>/steps/<uuid:run_id>/<path:key>/", views.step, name="chat-step"),
]
