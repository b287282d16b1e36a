"""Tickets in the admin; templates/admin/base_site.html adds a link to the status page."""

from django.contrib import admin

from tickets.models import Ticket


@admin.register(Ticket)
class TicketAdmin(admin.ModelAdmin):
    """With what Claude made of them."""

    list_display = ("title", "summary")
